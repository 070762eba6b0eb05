"""The paper's theory, checked on small networks."""
