"""Statistics of tables: groups compared, demographics, regression, correlation, sample size."""
