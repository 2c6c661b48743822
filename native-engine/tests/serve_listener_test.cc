// The socket's file: who may connect, when it is replaced, when it is left alone.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "serve/listener.h"

namespace penstock {
namespace {

std::string fresh_directory() {
  std::string pattern = (std::filesystem::temp_directory_path() / "penstock-listener-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
  return pattern;
}

TEST(SocketFile, IsForItsUserAloneAndReplacedWhenStale) {
  const std::string directory = fresh_directory(), path = directory + "/engine.sock";
  {
    const Listener listener(path);
    struct stat made{};
    ASSERT_EQ(stat(path.c_str(), &made), 0);
    EXPECT_EQ(made.st_mode & 0777, 0600u);
    EXPECT_THROW(Listener second(path), SocketInUse);
    EXPECT_THROW(check_socket_path(path), SocketInUse);
    EXPECT_TRUE(std::filesystem::exists(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  // A socket file as a killed engine leaves it: bound, and nobody listens.
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  close(fd);
  EXPECT_NO_THROW(check_socket_path(path));
  EXPECT_NO_THROW(Listener again(path));
  std::filesystem::remove_all(directory);
}

TEST(SocketFile, NeverReplacesAFileOfAnotherKind) {
  const std::string directory = fresh_directory(), path = directory + "/notes.txt";
  std::ofstream(path) << "precious";
  EXPECT_THROW(Listener listener(path), SocketInUse);
  EXPECT_EQ(std::filesystem::file_size(path), 8u);
  std::filesystem::remove_all(directory);
}

TEST(SocketFile, MustHaveAPathASocketCanHave) {
  EXPECT_THROW(check_socket_path(""), std::invalid_argument);
  EXPECT_THROW(check_socket_path("/tmp/" + std::string(200, 'x')), std::invalid_argument);
  EXPECT_THROW(Listener listener("/nonexistent/directory/engine.sock"), std::system_error);
}

}  // namespace
}  // namespace penstock
