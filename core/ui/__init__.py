"""The page. Nothing below it knows that there is one."""
