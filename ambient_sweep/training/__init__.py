"""Training: schedules, the state that resume needs, the loop that yields records. Knows neither Ray nor evaluation."""
