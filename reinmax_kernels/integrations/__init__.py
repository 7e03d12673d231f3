"""What other libraries need to use the estimators; each module imports the library that it is named after."""
