#include "fabric/verbs/gid_table.h"

#include <fstream>

namespace weightcast {
namespace {

/// The first line of a file; empty if it cannot be read, as for an unused entry.
std::string LineOf(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The higher, the better; 0 for what cannot be used.
int RankOf(const std::string& type, const std::string& gid) {
  if (type != "RoCE v2" || gid.empty()) return 0;
  if (gid == "0000:0000:0000:0000:0000:0000:0000:0000") return 0;
  if (gid.rfind("0000:0000:0000:0000:0000:ffff:", 0) == 0) return 3;
  return gid.rfind("fe80:", 0) == 0 ? 1 : 2;
}

}  // namespace

std::optional<int> RoceGidIndex(const std::string& device, int port, int table_length) {
  const std::string base = "/sys/class/infiniband/" + device + "/ports/" + std::to_string(port);
  int best_rank = 0;
  std::optional<int> best;
  for (int index = 0; index < table_length; index++) {
    const std::string type = LineOf(base + "/gid_attrs/types/" + std::to_string(index));
    if (type.empty()) continue;
    const int rank = RankOf(type, LineOf(base + "/gids/" + std::to_string(index)));
    if (rank <= best_rank) continue;
    best_rank = rank;
    best = index;
  }
  return best;
}

}  // namespace weightcast
