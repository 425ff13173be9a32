"""What a user asks for beside the plain loop, a file each: its policy, its check, its machine and its words."""
