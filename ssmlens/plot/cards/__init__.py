"""Cards for notebooks: a file a thing, entered under the name of its class. Some kilobytes each."""
