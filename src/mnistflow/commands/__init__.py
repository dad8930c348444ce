"""What the Makefile calls: the main job, predictions, export, the pages (report, draw, lesson), the gate, CI."""
