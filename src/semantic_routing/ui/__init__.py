"""The web page: one small file a tab, each on the functions that the commands call."""
