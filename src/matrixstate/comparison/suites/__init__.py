"""What is compared, as data: entries, suites and sets of them, their files, the budget and the plan that meets it."""
