"""The study of iron and myelin in the deep gray matter of multiple-sclerosis patients: from maps to a report."""
