#!/usr/bin/env bash
# version.sh: prints what is built here, as "go install" would name it: 1.2.3 on
# the tag v1.2.3, else the next version's pseudo-version, which sorts before it:
# 1.2.4-0.20261122075403-5241ad08d556, or 0.0.0-... without any tag. "+dirty"
# where the tree is not what was committed.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -e .git ] || { echo "version.sh: this is no git repository: say VERSION=1.2.3" >&2; exit 1; }
stamp=$(TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd)-$(git rev-parse --short=12 HEAD)
dirty=$([ -z "$(git status --porcelain --untracked-files=no)" ] || echo +dirty)
tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null || true)
if [ -z "$tag" ]; then
  version=0.0.0-$stamp
elif [ "$(git rev-parse "$tag^{commit}")" = "$(git rev-parse HEAD)" ]; then
  version=${tag#v}
else
  number=${tag#v}
  case $number in
  *-*) version=$number.0.$stamp ;; # after v1.2.3-rc1
  *) version=${number%.*}.$((${number##*.} + 1))-0.$stamp ;;
  esac
fi
echo "$version$dirty"
