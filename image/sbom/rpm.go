package sbom

func (s *scanner) rpm() error { return nil }
