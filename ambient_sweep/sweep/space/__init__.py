"""The sweep file: what is fixed, what is searched, what runs beside the search."""
