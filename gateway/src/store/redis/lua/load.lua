
-- Operations of four arguments each; made twice they are the same.
apply(ARGV)
return #ARGV
