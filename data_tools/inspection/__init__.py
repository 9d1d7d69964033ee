"""What people see of a store: facts, figures against typical ranges, pictures, a report."""
