"""Many runs from one config file: their points, checks, launchers and states."""
