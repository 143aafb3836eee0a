"""A module for every command of `jaxppo`: `main(arguments)` parses what it was asked for and calls the package."""
