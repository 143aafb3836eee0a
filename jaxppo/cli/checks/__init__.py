"""What `jaxppo doctor` checks: the installation, the machine, prices and a configuration."""
