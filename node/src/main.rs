mod indexer;
fn main(){}
