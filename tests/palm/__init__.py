"""PALM's inference written naively from its papers, and the cases that PALM itself computed."""
