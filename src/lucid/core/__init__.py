"""Values that everything shares: errors, element types, geometry."""
