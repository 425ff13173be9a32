"""What its developers run by hand."""
