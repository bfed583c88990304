"""A front desk: facts about places, questions, and requests that must be refused."""
