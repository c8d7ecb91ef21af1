"""What the project is made of, and whether it holds what it should not: `make sbom`, `make secrets`."""
