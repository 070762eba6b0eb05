"""Files on object stores (s3://, gs://, ...), by fsspec: listed, read, written and taken away. Must not know images."""
