"""The stages of a study, one module for each family: a function makes them of the study's inputs."""
