"""What a batch of rollouts teaches, whatever framework trains: which prompts come or come again, what is kept."""
