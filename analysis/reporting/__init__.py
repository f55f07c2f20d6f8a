"""What a report says: results gathered, words, tables, the page."""
