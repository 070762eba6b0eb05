"""Tables, sentences, pictures and files of a job."""
