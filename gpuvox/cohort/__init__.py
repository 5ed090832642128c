"""From a table of participants and a formula to what the engine takes: images, design, contrasts, blocks."""
