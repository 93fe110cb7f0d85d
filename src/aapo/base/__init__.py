"""Small base models made here: a real Qwen3 model, taught just enough that reinforcement learning has a start."""
