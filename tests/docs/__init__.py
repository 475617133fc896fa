"""What is said and shipped: options, examples, the guide, packages, figures."""
