"""What runs: the control plane and the sample shop; each package has its main, its servicer and its store."""
