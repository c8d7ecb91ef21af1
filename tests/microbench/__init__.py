"""`make microbench`: what each stage of a callback costs, and whether it costs more than it did."""
