"""A whole study: from its configuration, stage by stage, to the files that the report is made from."""
