{
  description = "Build and flash disk images for embedded Linux boards";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" "x86_64-darwin" "aarch64-darwin" ];
      version = self.shortRev or "dirty";
      imgtool = pkgs: pkgs.buildGoModule {
        pname = "imgtool";
        inherit version;
        src = self;
        # The test of packaging/ prints the new value after a change of go.mod.
        vendorHash = "sha256-tZ0eM6ytBZq8oKI3V7Y2IzgpTeDOkan5DU2PnKmCQB0=";
        subPackages = [ "cmd/imgtool" ];
        ldflags = [ "-s" "-w" "-X main.version=${version}" ];
        nativeBuildInputs = [ pkgs.installShellFiles ];
        preBuild = "make first-boot";
        doCheck = false; # make test needs Debian's tools and root
        postInstall = ''
          $out/bin/imgtool gen man .
          installManPage *.1
          for shell in bash zsh fish; do
            $out/bin/imgtool completion $shell > completion
            installShellCompletion --cmd imgtool --$shell completion
          done
        '' + pkgs.lib.optionalString pkgs.stdenv.hostPlatform.isLinux ''
          install -Dm644 -t $out/share/polkit-1/rules.d packaging/polkit/*.rules
          install -Dm644 -t $out/lib/udev/rules.d packaging/udev/*.rules
        '';
        meta = {
          description = "Build and flash disk images for embedded Linux boards";
          license = pkgs.lib.licenses.asl20;
          mainProgram = "imgtool";
        };
      };
    in
    {
      packages = nixpkgs.lib.genAttrs systems (system: {
        default = imgtool nixpkgs.legacyPackages.${system};
      });
    };
}
