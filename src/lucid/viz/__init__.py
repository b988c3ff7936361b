"""Pictures and explanations of networks."""
