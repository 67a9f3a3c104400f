"""What Pilus costs, beside what people would otherwise run: `make bench`. docs/figures.md says what is measured, and how."""
