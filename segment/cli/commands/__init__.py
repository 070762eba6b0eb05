"""One module for each group of commands: arguments to one job, and what is shown of it."""
