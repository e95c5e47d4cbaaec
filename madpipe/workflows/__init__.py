"""One function per verb; each joins rooms and holds no maths."""
