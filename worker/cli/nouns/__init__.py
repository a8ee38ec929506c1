"""The commands about one kind of thing: a module for each noun, its verbs inside."""
