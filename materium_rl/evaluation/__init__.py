"""What a policy's samples are worth: the funnel to S.U.N., and what the novelty is made of."""
