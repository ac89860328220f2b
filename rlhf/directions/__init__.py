"""Every kind of direction, every stage, every control: who does as told, and at which price in craft."""
