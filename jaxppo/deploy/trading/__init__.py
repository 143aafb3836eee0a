"""What a trader needs beside policy and broker: books, feeds, a page."""
