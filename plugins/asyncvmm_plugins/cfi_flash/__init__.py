"""Two interleaved NOR flash chips with the Common Flash Interface and Intel's command set."""
