"""Answer questions about loss grids: one file a question, libraries that know no flags and print nothing."""
