"""What the CSV tables say: statistics, sentences, figures and the HTML report."""
