"""One file an algorithm. Each says what it accepts, plans a problem and binds the plan to native code."""
