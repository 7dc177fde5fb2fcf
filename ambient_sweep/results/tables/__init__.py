"""Both tables of a sweep: their schemas, their rows, and their Parquet files."""
