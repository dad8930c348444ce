"""Many trainings on Ray: searches for better settings (`sweep`), and one setting from many seeds (`seeds`)."""
