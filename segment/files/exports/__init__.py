"""What other programs read: one module a format of GIS, annotation tools, tables, medicine and players."""
