"""Healing: fine-tune a pruned checkpoint by a recipe of one of the papers, and write the healed one."""
