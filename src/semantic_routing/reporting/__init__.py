"""The ground floor of results: tables, pages, figures, named arrays and intervals, each written as files to open."""
